"""Choosing schedules by measuring them, and the file that keeps what was measured."""
