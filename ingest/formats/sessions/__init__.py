"""Session files that command-line agents keep on disk. Start with ``session_file``."""
