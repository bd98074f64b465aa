"""What is measured rather than tested. Each file says what it compares with; `docs/benchmarks.md` has the figures."""
