"""The tables' definitions, one SQL file a table; this module only makes them package data."""
