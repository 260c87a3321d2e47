"""What ``steer benchmark`` measures, a module a part."""
