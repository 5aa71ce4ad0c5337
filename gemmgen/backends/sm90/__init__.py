"""Hopper: TMA, mbarriers, wgmma, clusters with distributed shared memory."""
