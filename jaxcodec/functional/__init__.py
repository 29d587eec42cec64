"""The arithmetic of codecs as pure functions over arrays; no Flax."""

from jaxcodec.functional.activation import elu as elu, snake as snake
from jaxcodec.functional.attention import rotary as rotary, window_attention as window_attention
from jaxcodec.functional.binary import (
  residual_sign_decode as residual_sign_decode,
  residual_sign_encode as residual_sign_encode,
  sign_decode as sign_decode,
  sign_encode as sign_encode,
  sign_entropies as sign_entropies,
)
from jaxcodec.functional.codebook import (
  CodeStatistics as CodeStatistics,
  check_codes as check_codes,
  check_latents as check_latents,
  check_positive as check_positive,
  clean_latents as clean_latents,
  code_counts as code_counts,
  code_health as code_health,
  code_statistics as code_statistics,
  lookup as lookup,
  masked_mean as masked_mean,
  valid_rows as valid_rows,
)
from jaxcodec.functional.conv import (
  PadMode as PadMode,
  absent_as_zero as absent_as_zero,
  causal_conv as causal_conv,
  causal_conv_transpose as causal_conv_transpose,
  causal_depthwise_conv as causal_depthwise_conv,
  conv as conv,
  conv_transpose as conv_transpose,
  depthwise_conv_transpose as depthwise_conv_transpose,
  pad as pad,
  same_conv as same_conv,
  same_conv_transpose as same_conv_transpose,
  same_depthwise_conv as same_depthwise_conv,
  steady_conv as steady_conv,
)
from jaxcodec.functional.diffusion import (
  Schedule as Schedule,
  clean_shares as clean_shares,
  ddim as ddim,
  ddim_schedule as ddim_schedule,
  diffused as diffused,
  guided as guided,
  step_embedding as step_embedding,
)
from jaxcodec.functional.factorized import (
  FactorizedCodebooks as FactorizedCodebooks,
  FactorizedLosses as FactorizedLosses,
  factorized_decode as factorized_decode,
  factorized_encode as factorized_encode,
  factorized_straight_through as factorized_straight_through,
  nearest_direction as nearest_direction,
)
from jaxcodec.functional.fitted import (
  hard_soft_round as hard_soft_round,
  kumaraswamy as kumaraswamy,
  laplace_bits as laplace_bits,
  noisy_soft_round as noisy_soft_round,
)
from jaxcodec.functional.inverse_spectral import (
  inverse_frames as inverse_frames,
  overlap_frames as overlap_frames,
)
from jaxcodec.functional.key_value import (
  mean_entries as mean_entries,
  mean_values as mean_values,
  nearest_keys as nearest_keys,
  project_heads as project_heads,
  top_codes as top_codes,
)
from jaxcodec.functional.kmeans import (
  draw_rows as draw_rows,
  kmeans as kmeans,
  lloyd as lloyd,
  residual_kmeans as residual_kmeans,
)
from jaxcodec.functional.legendre import (
  impulse_response as impulse_response,
  legendre_matrices as legendre_matrices,
  legendre_memory as legendre_memory,
  legendre_steps as legendre_steps,
)
from jaxcodec.functional.multiscale import (
  MultiScaleParameters as MultiScaleParameters,
  MultiScaleQuantized as MultiScaleQuantized,
  area_matrix as area_matrix,
  bicubic_matrix as bicubic_matrix,
  multiscale_decode as multiscale_decode,
  multiscale_quantize as multiscale_quantize,
  which_convolution as which_convolution,
)
from jaxcodec.functional.patterns import (
  arranged as arranged,
  delay_pattern as delay_pattern,
  flat_pattern as flat_pattern,
  parallel_pattern as parallel_pattern,
  restored as restored,
)
from jaxcodec.functional.picture_attention import (
  linear_attention as linear_attention,
  local_attention as local_attention,
  neighbours as neighbours,
  window_bias_index as window_bias_index,
  window_rotation as window_rotation,
)
from jaxcodec.functional.picture_conv import (
  checkerboard as checkerboard,
  checkerboard_mask as checkerboard_mask,
  conv2d as conv2d,
  conv2d_transpose as conv2d_transpose,
  depth_to_space as depth_to_space,
  depthwise_conv2d as depthwise_conv2d,
  generalized_norm as generalized_norm,
  raster_mask as raster_mask,
  space_to_depth as space_to_depth,
  subpixel_kernel as subpixel_kernel,
)
from jaxcodec.functional.projection import (
  matched_projection as matched_projection,
  thin_matmul as thin_matmul,
)
from jaxcodec.functional.quantize import (
  EmaState as EmaState,
  ResidualQuantized as ResidualQuantized,
  active_stages as active_stages,
  draw_num_active as draw_num_active,
  ema_state as ema_state,
  ema_update as ema_update,
  residual_decode as residual_decode,
  residual_encode as residual_encode,
  residual_inputs as residual_inputs,
  residual_quantize as residual_quantize,
  residual_statistics as residual_statistics,
  restart_dead_codes as restart_dead_codes,
)
from jaxcodec.functional.rate import (
  Factorized as Factorized,
  factorized_likelihood as factorized_likelihood,
  factorized_logits as factorized_logits,
  gaussian_likelihood as gaussian_likelihood,
  information_bits as information_bits,
  lower_bound as lower_bound,
  round_about as round_about,
  soft_round as soft_round,
  soft_round_inverse as soft_round_inverse,
  uniform_noise as uniform_noise,
)
from jaxcodec.functional.recurrent import bidirectional_lstm as bidirectional_lstm, lstm as lstm
from jaxcodec.functional.scalar import (
  check_levels as check_levels,
  fsq_bound as fsq_bound,
  fsq_decode as fsq_decode,
  fsq_encode as fsq_encode,
  lookup_values as lookup_values,
  nearest_value as nearest_value,
  pack_digits as pack_digits,
  residual_fsq_decode as residual_fsq_decode,
  residual_fsq_encode as residual_fsq_encode,
  soft_clamp as soft_clamp,
  unpack_digits as unpack_digits,
)
from jaxcodec.functional.segments import cross_fade as cross_fade, overlap_add as overlap_add
from jaxcodec.functional.sinusoids import grid_sinusoids as grid_sinusoids, sinusoids as sinusoids
from jaxcodec.functional.spiking import (
  leaky_integrate_and_fire as leaky_integrate_and_fire,
  spike as spike,
)
from jaxcodec.functional.strips import (
  Conv as Conv,
  Norm as Norm,
  in_turn as in_turn,
)
from jaxcodec.functional.through import (
  rotate as rotate,
  straight_through as straight_through,
  through_and_entries as through_and_entries,
)
from jaxcodec.functional.vector import (
  VectorQuantized as VectorQuantized,
  unit as unit,
  vector_quantize as vector_quantize,
)
