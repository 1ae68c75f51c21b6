"""Advantages and losses as pure functions on tensors: below the learner, which every algorithm stands on."""
