"""What people see, looked at through a real browser."""
