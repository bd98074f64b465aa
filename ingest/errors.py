"""The one exception that a person, not a programmer, is meant to read."""


class UserError(Exception):
    """Something the user can put right. One line: what was got, what was expected, what to do.

    The command line prints ``rehearsal: <message>`` to stderr and exits with 2; library callers see a
    plain exception.
    """
