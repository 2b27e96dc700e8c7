"""Distilling a flow into a flow map or a meta flow map."""
