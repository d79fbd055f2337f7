"""The builder of the pocket model: pictures, autoencoder, judge, base, distilled twin, scores."""
