"""RULER and the judges behind it. Start with `ruler.py`."""
