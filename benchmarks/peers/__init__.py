"""What the benchmarks compare with: the libraries alone, and a bare gRPC server."""
