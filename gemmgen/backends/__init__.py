"""Targets: capability records, and one package of ops, rules, lowering and emitters per family of GPUs."""
