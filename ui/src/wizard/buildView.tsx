import { checkIcon, copyIcon } from '@jupyterlab/ui-components';
import React from 'react';

import { IBuild } from '../api';
import { isRunning } from '../builds';
import { formatSize, formatTime } from '../format';

/** How a build goes, and in the end what to do with the image, or what failed. */
export function BuildView({ build }: { build: IBuild }): JSX.Element {
  const running = isRunning(build);
  const last = build.steps[build.steps.length - 1];
  return (
    <div className="jp-dockerKernel-build">
      <ol className="jp-dockerKernel-steps">
        {build.steps.map((step, index) => {
          const current = running && step === last;
          const failed = !running && step === last && build.state !== 'made';
          return (
            <li
              key={index}
              className={
                current ? 'jp-mod-current' : failed ? 'jp-mod-failed' : ''
              }
            >
              <span aria-hidden="true" className="jp-dockerKernel-mark">
                {current ? '' : failed ? '✕' : '✓'}
              </span>
              {step.text}
              {step.detail && ` (${step.detail})`}
            </li>
          );
        })}
      </ol>
      {running && (
        <Bar
          value={last?.done ?? null}
          text={last?.detail || last?.text || ''}
        />
      )}
      <div
        role="status"
        className={running ? 'jp-dockerKernel-hidden' : 'jp-dockerKernel-state'}
      >
        {sentence(build)}
      </div>
      {build.state === 'failed' && (
        <div role="alert" className="jp-dockerKernel-problem">
          {build.message}
        </div>
      )}
      {build.image && <Made image={build.image} />}
    </div>
  );
}

/** A build's state in a few words; read out when it changes. */
export function sentence(build: IBuild): string {
  const took = formatTime((build.ended ?? build.started) - build.started);
  switch (build.state) {
    case 'running':
      return `Makes ${build.name}: ${build.steps[build.steps.length - 1]?.text ?? 'begins'}`;
    case 'cancelling':
      return 'Takes down what was begun…';
    case 'made':
      return `Made ${build.name} in ${took}.`;
    case 'failed':
      return `${build.name} was not made.`;
    case 'cancelled':
      return `${build.name} was cancelled: nothing of it is left.`;
  }
}

/** How far something is. */
export function Bar(props: {
  value: number | null;
  text: string;
}): JSX.Element {
  const { value, text } = props;
  const known =
    value === null
      ? {}
      : {
          'aria-valuenow': Math.round(value * 100),
          'aria-valuemin': 0,
          'aria-valuemax': 100
        };
  return (
    <div
      className="jp-dockerKernel-bar"
      role="progressbar"
      aria-label="Progress"
      aria-valuetext={text}
      {...known}
    >
      <div
        className={value === null ? 'jp-mod-unknown' : ''}
        style={value === null ? {} : { width: `${value * 100}%` }}
      />
    </div>
  );
}

function Made({ image }: { image: NonNullable<IBuild['image']> }): JSX.Element {
  return (
    <>
      <dl className="jp-dockerKernel-summary">
        <dt>Size</dt>
        <dd>{formatSize(image.size)}</dd>
        {image.pushed && (
          <>
            <dt>Pushed as</dt>
            <dd>
              <code>{image.pushed}</code>
            </dd>
          </>
        )}
      </dl>
      <Command text={image.command} />
    </>
  );
}

/** A command for a terminal, to be copied. */
export function Command({ text }: { text: string }): JSX.Element {
  const field = React.useRef<HTMLTextAreaElement>(null);
  const [copied, setCopied] = React.useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without HTTPS there is no such API.
      field.current?.select();
      document.execCommand('copy');
    }
    setCopied(true);
  };
  return (
    <div className="jp-dockerKernel-command">
      <label htmlFor="docker-kernel-command">Run it in a terminal</label>
      <div>
        <textarea
          id="docker-kernel-command"
          className="jp-mod-styled"
          ref={field}
          readOnly
          rows={2}
          value={text}
          onFocus={event => event.target.select()}
        />
        <button
          type="button"
          className="jp-mod-styled jp-mod-minimal"
          onClick={() => void copy()}
        >
          {copied ? (
            <checkIcon.react tag="span" />
          ) : (
            <copyIcon.react tag="span" />
          )}
          {copied ? 'Copied' : 'Copy'}
        </button>
      </div>
      <div role="status" className="jp-dockerKernel-hidden">
        {copied ? 'The command was copied.' : ''}
      </div>
    </div>
  );
}
