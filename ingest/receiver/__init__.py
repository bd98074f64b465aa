"""OTLP over HTTP and gRPC: a request is acknowledged only after its bytes are on disk. Start with `service.py`."""
