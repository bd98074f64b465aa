"""The fidelity card: how true a world is, per tool. Start with `make.py`."""
