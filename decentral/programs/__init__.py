"""Programs: what each stage of a network does, one file a paper. Both drivers run the same text."""
