"""Sizes one server: observe, recommend, allocate, resize; `control_loop` is the place to start reading."""
