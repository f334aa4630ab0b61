"""Bad inputs by topic: tables of cases, what makes each input, and what runs a command on it."""
