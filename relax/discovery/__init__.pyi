from relax.discovery.compact import Bumps as Bumps
from relax.discovery.compact import bumps as bumps
from relax.discovery.data import samples as samples
from relax.discovery.fields import FieldPosterior as FieldPosterior
from relax.discovery.found import Found as Found
from relax.discovery.library import test as test
from relax.discovery.library import unknown as unknown
from relax.discovery.search import null_space as null_space
