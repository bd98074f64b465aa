"""The fidelity card: how accurate a world is, per tool. Start with `make.py`."""
