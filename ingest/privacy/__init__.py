"""Replace secrets and personal data by stable surrogates before anything is learned.

``settings``: user settings. ``detectors`` and ``tokens``: find data by its form. ``fields``: find data by the key of
its field. ``screen``: a fast test that finds texts without such data. ``surrogates``: make the replacements. ``scrub``:
replace in texts and JSON. ``conversations``: replace in everything that tables are made of. ``lakes``: apply the
settings of a lake. docs/privacy.md describes all this for users.
"""
