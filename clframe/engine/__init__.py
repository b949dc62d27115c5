"""Turns a checked config into a finished run; the only room that knows Lightning."""
