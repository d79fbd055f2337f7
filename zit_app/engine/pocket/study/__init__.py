"""The study: what the AC-RF documents claim, measured on the pocket model. `zit pocket study` writes docs/study.md.

rows      what is trained: one change of the settings a row
probes    what needs no training: gradients of the untrained model by noise level, sampler and layer
sizes     memory and time of a training by its number of pictures
trainings each row and seed trained and measured
claims    the documents' sentences, and when a figure confirms them
report    tables, drawings and verdicts as a page
"""
