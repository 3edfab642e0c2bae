from relax.bridges import jax as jax
from relax.bridges import umbridge as umbridge
