"""The reference agent, part by part."""
