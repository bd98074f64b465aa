"""The one exception whose message is meant for users."""


class UserError(Exception):
    """Something that the user can correct. One line: what was got, what was expected, what to do.

    The command line prints ``rehearsal: <message>`` to stderr and exits with 2; library callers see a plain exception.
    """
