// Errors and other texts in plain words.

const WORDS = {
  not_mp4: "This file is not an MP4 or MOV video. Choose another file, or convert it.",
  unsupported_codec: "The picture or sound of this clip is in a form that the service does not read.",
  no_audio: "This clip has no sound, so nothing can be heard in it.",
  no_video: "This file has sound but no picture.",
  no_frames: "This clip has no picture that can be shown.",
  broken: "This file is damaged and cannot be read.",
  truncated: "This file is not complete; perhaps its download or copy was cut off.",
  encrypted: "This clip is copy-protected and cannot be read.",
  too_long: "This clip is too long for this service.",
  too_many_frames: "That would be too many pictures. Lower the samples per second.",
  picture_too_large: "The picture of this clip is too large for this service.",
  upload_too_large: "This file is too large for this service.",
  empty_file: "This file is empty.",
  answer_too_large: "The answer is too large. Lower the samples per second, or choose the mask size of the model.",
  unauthenticated: "This service asks for an API key. Enter it under More settings.",
  queue_full: "The service is busy. Try again in a moment.",
  too_many_requests: "The service is busy. Try again in a moment.",
  warming_up: "The service is starting. Try again in a moment.",
  draining: "The service is restarting. Try again in a moment.",
  backend_down: "A part of the service does not answer. Try again in a moment.",
  deadline_exceeded: "This took too long. Try again, or lower the samples per second.",
  slow_upload: "The upload was too slow or stopped. Check the connection and try again.",
  slow_reader: "The connection is too slow for the masks.",
  internal: "Something went wrong inside the service.",
  forbidden: "This page may not use the service.",
};

/** What to tell a person about a problem document, an exception or a cut stream. */
export function plainWords(problem) {
  if (problem?.code) {
    const said = WORDS[problem.code];
    if (!said) return problem.detail ?? problem.title;
    const shown = ["unauthenticated", "queue_full", "too_many_requests", "not_mp4", "no_audio"].includes(problem.code);
    return shown || !problem.detail ? said : `${said} (${problem.detail})`;
  }
  if (problem instanceof TypeError) return "The service does not answer. Is it running, and is the network up?";
  return String(problem?.message ?? problem);
}

/** Why a camera or a microphone could not be opened. */
export function cameraWords(error) {
  if (!globalThis.isSecureContext) return "Browsers allow cameras on https pages and on this machine (localhost) only.";
  if (error?.name === "NotAllowedError") return "The browser did not allow the camera or the microphone. Allow both for this page.";
  if (error?.name === "NotFoundError") return "There is no camera or no microphone.";
  if (error?.name === "NotReadableError") return "Another program uses the camera or the microphone.";
  return plainWords(error);
}

export function seconds(value) {
  const minutes = Math.floor(value / 60);
  return minutes ? `${minutes}:${(value % 60).toFixed(1).padStart(4, "0")}` : `${value.toFixed(1)} s`;
}
