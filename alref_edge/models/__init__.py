"""One package a network: preprocess, session, postprocess; numpy in, numpy out."""
