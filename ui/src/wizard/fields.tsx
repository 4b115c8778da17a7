import React from 'react';

/** A labelled field, with a hint below it and what is wrong with its value. */
export function Field(props: {
  id: string;
  label: string;
  hint?: string;
  problem?: string;
  children: React.ReactElement;
}): JSX.Element {
  const { id, label, hint, problem, children } = props;
  const described = [hint && `${id}-hint`, problem && `${id}-problem`];
  return (
    <div className="jp-dockerKernel-Field">
      <label htmlFor={id}>{label}</label>
      {React.cloneElement(children, {
        id,
        'aria-describedby': described.filter(Boolean).join(' ') || undefined,
        'aria-invalid': problem ? true : undefined
      })}
      {hint && (
        <div id={`${id}-hint`} className="jp-dockerKernel-hint">
          {hint}
        </div>
      )}
      <Problem id={`${id}-problem`} text={problem ?? ''} />
    </div>
  );
}

/** What is wrong, read out when it appears. */
export function Problem(props: { id?: string; text: string }): JSX.Element {
  return (
    <div id={props.id} className="jp-dockerKernel-problem" role="alert">
      {props.text}
    </div>
  );
}

/** A box to tick. */
export function Checkbox(props: {
  id: string;
  label: React.ReactNode;
  checked: boolean;
  disabled?: boolean;
  onChange: (checked: boolean) => void;
}): JSX.Element {
  return (
    <div className="jp-dockerKernel-Checkbox">
      <input
        type="checkbox"
        id={props.id}
        checked={props.checked}
        disabled={props.disabled ?? false}
        onChange={event => props.onChange(event.target.checked)}
      />
      <label htmlFor={props.id}>{props.label}</label>
    </div>
  );
}
