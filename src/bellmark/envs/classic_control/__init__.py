"""Compiled twins of Gymnasium's classic control problems, proved equal to them step by step in the tests."""
