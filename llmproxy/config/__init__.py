"""The configuration: its model, and how a YAML file becomes one."""
