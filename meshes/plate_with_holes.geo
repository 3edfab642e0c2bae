// A plate [0, 2] x [0, 1] with four holes and a disc of another material. All lengths dimensionless.
DefineConstant[ h = {0.0224, Name "element size"} ];

Point(1) = {0, 0, 0, h};
Point(2) = {2, 0, 0, h};
Point(3) = {2, 1, 0, h};
Point(4) = {0, 1, 0, h};
Line(1) = {1, 2};
Line(2) = {2, 3};
Line(3) = {3, 4};
Line(4) = {4, 1};
Curve Loop(1) = {1, 2, 3, 4};

// In: cx, cy, r. Out: arcs[], loop.
Macro Ring
  c = newp; Point(c) = {cx, cy, 0, h};
  p = newp;
  Point(p) = {cx + r, cy, 0, h};
  Point(p + 1) = {cx, cy + r, 0, h};
  Point(p + 2) = {cx - r, cy, 0, h};
  Point(p + 3) = {cx, cy - r, 0, h};
  arcs[] = {};
  For i In {0:3}
    a = newc; Circle(a) = {p + i, c, p + (i + 1) % 4};
    arcs[] += a;
  EndFor
  loop = newcl; Curve Loop(loop) = arcs[];
Return

hole_arcs[] = {};
loops[] = {};
xs[] = {0.40, 0.45, 1.55, 1.70};
ys[] = {0.30, 0.75, 0.25, 0.70};
rs[] = {0.12, 0.10, 0.10, 0.14};
For k In {0:3}
  cx = xs[k]; cy = ys[k]; r = rs[k];
  Call Ring;
  hole_arcs[] += arcs[];
  loops[] += loop;
EndFor

cx = 1.0; cy = 0.5; r = 0.25;
Call Ring;
Plane Surface(1) = {1, loops[], loop};
Plane Surface(2) = {loop};

Physical Curve("left", 1) = {4};
Physical Curve("right", 2) = {2};
Physical Curve("bottom", 3) = {1};
Physical Curve("top", 4) = {3};
Physical Curve("holes", 5) = hole_arcs[];
Physical Surface("matrix", 1) = {1};
Physical Surface("inclusion", 2) = {2};
