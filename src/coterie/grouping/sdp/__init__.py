"""The clustering SDP of Peng and Wei: a solver of its own, with a certificate."""
