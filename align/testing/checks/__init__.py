"""The named checks of the conformance kit, one module a contract.

Each module has `subject(part, on)`, which makes what its checks are given, and `CHECKS`. A check
raises AssertionError where the part breaks its contract, and unittest.SkipTest where there is
nothing to measure. Names are public: a plugin's list of expected failures holds them.
"""
