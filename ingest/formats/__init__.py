"""What telemetry looks like in files and requests: OTLP protobuf and JSON, message lists, trajectories."""
