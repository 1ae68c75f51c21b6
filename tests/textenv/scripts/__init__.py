"""Single-file learners that know nothing of textenv but an environment id."""
