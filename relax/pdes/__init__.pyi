from relax.pdes import burgers as burgers
from relax.pdes import hamilton_jacobi as hamilton_jacobi
from relax.pdes import heat as heat
from relax.pdes import poisson as poisson
from relax.pdes import schrodinger as schrodinger
