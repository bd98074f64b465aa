"""What there is in a system: record types with their keys and links, sentences that show records, repeated requests."""
