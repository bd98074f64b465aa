"""The store of one world and the rules that answer from it. Read `engine.py` first."""
