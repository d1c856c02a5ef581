"""What a call answers, as typed results and in words."""
