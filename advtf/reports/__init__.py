"""Pages about runs: what the files of a training, an evaluation, an analysis or an export tell, as HTML.

Read `write` first: it opens folders, has a chapter made of each, and writes one page. Nothing is computed
again and TensorFlow is not imported. Then, from the general to the particular:

===========================  =========================================================================
`write`                      which folders and which file; the page of one folder or of several
`training` `evaluation`      the chapter of each kind of folder
`analysis` `export`
`chapter`                    what a chapter is; damage in one file becomes a notice in its place
`parts`                      what the chapters share: versions, settings, how to repeat, limits
`pictures`                   curves as inline SVG, images as data URIs
`html`                       elements whose text is always escaped
`page`                       the frame of a page with its style sheet, `page.css`
===========================  =========================================================================
"""
