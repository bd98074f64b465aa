"""Secrets and personal data become stable surrogates before anything is learned.

``settings`` is what a person may choose, ``detectors`` and ``tokens`` know data by its form, ``fields`` by the
key that it stands under, ``screen`` tells at once that there is none of it, ``surrogates`` replaces, ``scrub`` does
so in texts and JSON, ``conversations`` in everything that tables are made of, ``lakes`` as a lake's settings ask for.
docs/privacy.md tells how it looks to a user.
"""
