"""Mesh every .geo file of this folder at its own element size: python3 meshes/make.py [NAME...]."""

import sys
from pathlib import Path

import gmsh

here = Path(__file__).parent
for geo in sorted(here.glob("*.geo")):
    if sys.argv[1:] and geo.stem not in sys.argv[1:]:
        continue
    gmsh.initialize(readConfigFiles=False)
    gmsh.option.setNumber("General.Terminal", 0)
    gmsh.merge(str(geo))
    gmsh.model.mesh.generate(gmsh.model.getDimension())
    gmsh.option.setNumber("Mesh.MshFileVersion", 4.1)
    gmsh.write(str(geo.with_suffix(".msh")))
    cells = sum(len(tags) for tags in gmsh.model.mesh.getElements(gmsh.model.getDimension())[1])
    print(f"{geo.stem}: {len(gmsh.model.mesh.getNodes()[0])} nodes, {cells} cells")
    gmsh.finalize()
