"""Plots as SVG geometry; the templates draw them.

matplotlib is deliberately not used. The CSS of the page colours the same SVG in light and in dark mode, its text can be
selected and read aloud, and a chart takes about 2 KB. matplotlib would draw every chart twice, once for each mode, and would
add a dependency of 8 MB to the step that must work whatever failed before it (test_report_imports_no_heavy_library).
"""
