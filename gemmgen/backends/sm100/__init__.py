"""Blackwell (sm_100a, sm_103a): tcgen05 and tensor memory; the copy engine and barriers are Hopper's."""
