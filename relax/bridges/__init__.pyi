from relax.bridges import umbridge as umbridge
