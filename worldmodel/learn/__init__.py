"""Rules induced from recorded conversations. Read `induce.py` first."""
