"""Monte Carlo of a workspace: what counts, every stream of counts, CERTIFY, and how far engines agree."""
