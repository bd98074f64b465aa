"""The formats of files and requests: OTLP protobuf and JSON, message lists, trajectories, session files."""
