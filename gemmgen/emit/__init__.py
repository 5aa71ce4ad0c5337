"""From target IR to text: an emitter per (op, target), one Jinja environment, no decisions."""
