"use strict";(self.rspackChunkdocker_kernel=self.rspackChunkdocker_kernel||[]).push([[1],{20(e,r,o){var n=o(21),t=o.n(n),a=o(22),p=(o.n(a))()(t());p.push([e.id,`/* The windows over the page, as Lab's dialogs look. */

dialog.jp-dockerKernel-Modal {
  position: fixed;
  inset: 0;
  margin: auto;
  box-sizing: border-box;
  width: min(760px, calc(100vw - 32px));
  height: min(560px, calc(100vh - 32px));
  padding: 0;
  border: none;
  border-radius: var(--jp-border-radius);
  background: var(--jp-layout-color1);
  color: var(--jp-ui-font-color1);
  font-family: var(--jp-ui-font-family);
  font-size: var(--jp-ui-font-size1);
  line-height: 1.45;
  box-shadow: var(--jp-elevation-z20);
}

.jp-dockerKernel-Modal::backdrop {
  background: var(--jp-dialog-background);
}

.jp-dockerKernel-Wizard,
.jp-dockerKernel-Wizard > form,
.jp-dockerKernel-form {
  height: 100%;
}

.jp-dockerKernel-Wizard > form,
.jp-dockerKernel-form {
  display: flex;
  flex-direction: column;
}

.jp-dockerKernel-Wizard header {
  padding: 20px 24px 0;
}

.jp-dockerKernel-Wizard h1 {
  margin: 0 0 12px;
  font-size: var(--jp-ui-font-size3);
  font-weight: 400;
  overflow-wrap: anywhere;
}

.jp-dockerKernel-Wizard main {
  flex: 1;
  overflow: auto;
  padding: 12px 24px;
}

.jp-dockerKernel-Wizard main > p {
  margin: 0 0 12px;
}

.jp-dockerKernel-Wizard footer {
  display: flex;
  align-items: center;
  justify-content: flex-end;
  gap: 4px;
  padding: 12px 24px 16px;
  border-top: var(--jp-border-width) solid var(--jp-border-color2);
}

.jp-dockerKernel-busy {
  flex: 1;
  color: var(--jp-ui-font-color2);
}

.jp-dockerKernel-Wizard footer button[aria-disabled='true'] {
  opacity: 0.6;
  cursor: default;
}

.jp-dockerKernel-hidden {
  position: absolute;
  width: 1px;
  height: 1px;
  margin: 0;
  overflow: hidden;
  clip-path: inset(50%);
  white-space: nowrap;
}

.jp-dockerKernel-hint {
  color: var(--jp-ui-font-color2);
}

.jp-dockerKernel-problem {
  color: var(--jp-error-color1);
  overflow-wrap: anywhere;
}

.jp-dockerKernel-problem:empty {
  display: none;
}

.jp-dockerKernel-Wizard code {
  font-family: var(--jp-code-font-family);
  font-size: var(--jp-code-font-size);
  overflow-wrap: anywhere;
}

/* The steps, in a row. */

.jp-dockerKernel-pages {
  display: flex;
  gap: 4px;
  margin: 0;
  padding: 0;
  list-style: none;
  counter-reset: page;
}

.jp-dockerKernel-pages li {
  flex: 1;
  padding: 4px 0;
  border-bottom: 3px solid var(--jp-border-color2);
  color: var(--jp-ui-font-color2);
  counter-increment: page;
}

.jp-dockerKernel-pages li::before {
  content: counter(page) '. ';
}

.jp-dockerKernel-pages li.jp-mod-done {
  border-color: var(--jp-brand-color2);
}

.jp-dockerKernel-pages li[aria-current] {
  border-color: var(--jp-brand-color1);
  color: var(--jp-ui-font-color0);
  font-weight: 600;
}

/* Fields. */

.jp-dockerKernel-Field {
  margin-bottom: 12px;
}

.jp-dockerKernel-Field > label,
.jp-dockerKernel-command > label {
  display: block;
  margin-bottom: 4px;
  font-weight: 600;
}

.jp-dockerKernel-Wizard input.jp-mod-styled,
.jp-dockerKernel-Wizard .jp-HTMLSelect.jp-DefaultStyle select,
.jp-dockerKernel-Wizard textarea.jp-mod-styled {
  box-sizing: border-box;
  width: 100%;
  height: 32px;
  padding: 0 8px;
  border: var(--jp-border-width) solid var(--jp-border-color1);
  border-radius: var(--jp-border-radius);
  background: var(--jp-input-background);
  color: var(--jp-ui-font-color0);
  font-family: inherit;
  font-size: inherit;
}

.jp-dockerKernel-Wizard :is(input.jp-mod-styled, select, textarea):focus {
  border-color: var(--jp-brand-color1);
  box-shadow: inset 0 0 0 1px var(--jp-brand-color1);
  outline: none;
}

.jp-dockerKernel-Wizard :is(input, select)[aria-invalid] {
  border-color: var(--jp-error-color1);
}

.jp-dockerKernel-Wizard input.jp-mod-styled:disabled {
  opacity: 0.5;
}

.jp-dockerKernel-Wizard
  :is(summary, button, input[type='checkbox'], [tabindex]):focus-visible {
  outline: 2px solid var(--jp-brand-color1);
  outline-offset: 2px;
}

.jp-dockerKernel-Wizard .jp-HTMLSelect.jp-DefaultStyle select {
  margin: 0;
}

.jp-dockerKernel-pair {
  display: grid;
  grid-template-columns: 2fr 1fr;
  gap: 12px;
}

.jp-dockerKernel-Checkbox {
  display: flex;
  align-items: baseline;
  gap: 8px;
  margin-bottom: 8px;
}

.jp-dockerKernel-Wizard input[type='checkbox'] {
  flex: none;
  accent-color: var(--jp-brand-color1);
}

.jp-dockerKernel-fullName {
  margin-top: 12px;
}

/* Parameters. */

.jp-dockerKernel-parameters {
  width: 100%;
  border-collapse: collapse;
}

.jp-dockerKernel-parameters :is(th, td) {
  padding: 2px 4px;
  text-align: left;
  font-weight: 400;
}

.jp-dockerKernel-parameters thead th {
  color: var(--jp-ui-font-color2);
}

.jp-dockerKernel-parameters tbody th {
  max-width: 160px;
  overflow: hidden;
  font-family: var(--jp-code-font-family);
  font-size: var(--jp-code-font-size);
  text-overflow: ellipsis;
  white-space: nowrap;
}

.jp-dockerKernel-parameters td:nth-child(1) {
  width: 24px;
  text-align: center;
}

.jp-dockerKernel-parameters td:nth-child(3) {
  width: 110px;
}

.jp-dockerKernel-parameters td:nth-child(4) {
  width: 30%;
}

.jp-dockerKernel-parameters tr.jp-mod-excluded th {
  color: var(--jp-ui-font-color2);
  text-decoration: line-through;
}

.jp-dockerKernel-problemRow td {
  padding-bottom: 8px;
}

/* What is in an image. */

.jp-dockerKernel-summary {
  display: grid;
  grid-template-columns: max-content 1fr;
  gap: 6px 16px;
  margin: 0 0 16px;
}

.jp-dockerKernel-summary dt {
  color: var(--jp-ui-font-color2);
}

.jp-dockerKernel-summary dd {
  margin: 0;
  overflow-wrap: anywhere;
}

.jp-dockerKernel-section {
  padding: 8px 0;
  border-top: var(--jp-border-width) solid var(--jp-border-color2);
}

.jp-dockerKernel-section > summary {
  cursor: pointer;
}

.jp-dockerKernel-rows {
  max-height: 180px;
  overflow: auto;
  padding: 4px 16px;
}

.jp-dockerKernel-rows table {
  width: 100%;
  border-collapse: collapse;
}

.jp-dockerKernel-rows td {
  padding: 2px 8px 2px 0;
  overflow-wrap: anywhere;
}

.jp-dockerKernel-rows td:not(:first-child) {
  color: var(--jp-ui-font-color2);
  text-align: right;
}

.jp-dockerKernel-link {
  padding: 0;
  border: none;
  background: none;
  color: var(--jp-content-link-color);
  font: inherit;
  cursor: pointer;
}

.jp-dockerKernel-link:hover {
  text-decoration: underline;
}

.jp-dockerKernel-findings {
  margin: 0 0 16px;
  padding: 8px 12px;
  border: var(--jp-border-width) solid var(--jp-warn-color1);
  border-radius: var(--jp-border-radius);
}

.jp-dockerKernel-findings legend {
  padding: 0 4px;
  font-weight: 600;
}

.jp-dockerKernel-findings p {
  margin: 0 0 8px;
}

/* A build. */

.jp-dockerKernel-steps {
  margin: 0 0 12px;
  padding: 0;
  list-style: none;
}

.jp-dockerKernel-steps li {
  display: flex;
  gap: 8px;
  padding: 2px 0;
  color: var(--jp-ui-font-color2);
  overflow-wrap: anywhere;
}

.jp-dockerKernel-steps li.jp-mod-current {
  color: var(--jp-ui-font-color0);
}

.jp-dockerKernel-mark {
  flex: none;
  width: 16px;
  color: var(--jp-success-color1);
  text-align: center;
}

.jp-mod-failed > .jp-dockerKernel-mark {
  color: var(--jp-error-color1);
}

.jp-mod-current > .jp-dockerKernel-mark {
  box-sizing: border-box;
  width: 12px;
  height: 12px;
  margin: 3px 2px 0;
  border: 2px solid var(--jp-border-color2);
  border-top-color: var(--jp-brand-color1);
  border-radius: 50%;
  animation: jp-dockerKernel-turn 1s linear infinite;
}

.jp-dockerKernel-bar {
  height: 8px;
  margin-bottom: 12px;
  border-radius: 4px;
  background: var(--jp-layout-color3);
  overflow: hidden;
}

.jp-dockerKernel-bar > div {
  height: 100%;
  background: var(--jp-brand-color1);
}

.jp-dockerKernel-bar > .jp-mod-unknown {
  width: 25%;
  animation: jp-dockerKernel-slide 1.6s ease-in-out infinite alternate;
}

.jp-dockerKernel-state {
  margin-bottom: 12px;
  font-weight: 600;
  overflow-wrap: anywhere;
}

.jp-dockerKernel-command > div {
  display: flex;
  gap: 8px;
}

.jp-dockerKernel-Wizard .jp-dockerKernel-command textarea.jp-mod-styled {
  flex: 1;
  height: auto;
  padding: 8px;
  font-family: var(--jp-code-font-family);
  font-size: var(--jp-code-font-size);
  resize: none;
}

.jp-dockerKernel-command button span {
  display: flex;
}

.jp-dockerKernel-command button {
  display: flex;
  align-items: center;
  gap: 4px;
  height: 32px;
  color: var(--jp-ui-font-color1);
}

@keyframes jp-dockerKernel-turn {
  to {
    transform: rotate(1turn);
  }
}

@keyframes jp-dockerKernel-slide {
  to {
    transform: translateX(300%);
  }
}

@media (prefers-reduced-motion: reduce) {
  .jp-mod-current > .jp-dockerKernel-mark,
  .jp-dockerKernel-bar > .jp-mod-unknown {
    animation: none;
  }
}

/* The button in the toolbar. */

.jp-dockerKernel-Button .jp-ToolbarButtonComponent-label {
  margin-left: 4px;
}
`,""]),o.d(r,{},{A:p})},22(e){e.exports=function(e){var r=[];return r.toString=function(){return this.map(function(r){var o="",n=void 0!==r[5];return r[4]&&(o+="@supports (".concat(r[4],") {")),r[2]&&(o+="@media ".concat(r[2]," {")),n&&(o+="@layer".concat(r[5].length>0?" ".concat(r[5]):""," {")),o+=e(r),n&&(o+="}"),r[2]&&(o+="}"),r[4]&&(o+="}"),o}).join("")},r.i=function(e,o,n,t,a){"string"==typeof e&&(e=[[null,e,void 0]]);var p={};if(n)for(var i=0;i<this.length;i++){var d=this[i][0];null!=d&&(p[d]=!0)}for(var l=0;l<e.length;l++){var c=[].concat(e[l]);n&&p[c[0]]||(void 0!==a&&(void 0===c[5]||(c[1]="@layer".concat(c[5].length>0?" ".concat(c[5]):""," {").concat(c[1],"}")),c[5]=a),o&&(c[2]&&(c[1]="@media ".concat(c[2]," {").concat(c[1],"}")),c[2]=o),t&&(c[4]?(c[1]="@supports (".concat(c[4],") {").concat(c[1],"}"),c[4]=t):c[4]="".concat(t)),r.push(c))}},r}},21(e){e.exports=function(e){return e[1]}},13(e,r,o){o.r(r);var n=o(14),t=o.n(n),a=o(15),p=o.n(a),i=o(16),d=o.n(i),l=o(17),c=o.n(l),s=o(18),u=o.n(s),f=o(19),j=o.n(f),m=o(20),h={};h.styleTagTransform=j(),h.setAttributes=c(),h.insert=d().bind(null,"head"),h.domAPI=p(),h.insertStyleElement=u(),t()(m.A,h);let x=m.A&&m.A.locals?m.A.locals:void 0;o.d(r,{},{default:x})},14(e){var r=[];function o(e){for(var o=-1,n=0;n<r.length;n++)if(r[n].identifier===e){o=n;break}return o}function n(e,n){for(var t={},a=[],p=0;p<e.length;p++){var i=e[p],d=n.base?i[0]+n.base:i[0],l=t[d]||0,c="".concat(d," ").concat(l);t[d]=l+1;var s=o(c),u={css:i[1],media:i[2],sourceMap:i[3],supports:i[4],layer:i[5]};if(-1!==s)r[s].references++,r[s].updater(u);else{var f=function(e,r){var o=r.domAPI(r);return o.update(e),function(r){r?(r.css!==e.css||r.media!==e.media||r.sourceMap!==e.sourceMap||r.supports!==e.supports||r.layer!==e.layer)&&o.update(e=r):o.remove()}}(u,n);n.byIndex=p,r.splice(p,0,{identifier:c,updater:f,references:1})}a.push(c)}return a}e.exports=function(e,t){var a=n(e=e||[],t=t||{});return function(e){e=e||[];for(var p=0;p<a.length;p++){var i=o(a[p]);r[i].references--}for(var d=n(e,t),l=0;l<a.length;l++){var c=o(a[l]);0===r[c].references&&(r[c].updater(),r.splice(c,1))}a=d}}},16(e){var r={};e.exports=function(e,o){var n=function(e){if(void 0===r[e]){var o=document.querySelector(e);if(window.HTMLIFrameElement&&o instanceof window.HTMLIFrameElement)try{o=o.contentDocument.head}catch(e){o=null}r[e]=o}return r[e]}(e);if(!n)throw Error("Couldn't find a style target. This probably means that the value for the 'insert' parameter is invalid.");n.appendChild(o)}},18(e){e.exports=function(e){var r=document.createElement("style");return e.setAttributes(r,e.attributes),e.insert(r,e.options),r}},17(e,r,o){e.exports=function(e){var r=o.nc;r&&e.setAttribute("nonce",r)}},15(e){e.exports=function(e){if("u"<typeof document)return{update:function(){},remove:function(){}};var r=e.insertStyleElement(e);return{update:function(o){var n,t,a;n="",o.supports&&(n+="@supports (".concat(o.supports,") {")),o.media&&(n+="@media ".concat(o.media," {")),(t=void 0!==o.layer)&&(n+="@layer".concat(o.layer.length>0?" ".concat(o.layer):""," {")),n+=o.css,t&&(n+="}"),o.media&&(n+="}"),o.supports&&(n+="}"),(a=o.sourceMap)&&"u">typeof btoa&&(n+="\n/*# sourceMappingURL=data:application/json;base64,".concat(btoa(unescape(encodeURIComponent(JSON.stringify(a))))," */")),e.styleTagTransform(n,r,e.options)},remove:function(){var e;null===(e=r).parentNode||e.parentNode.removeChild(e)}}}},19(e){e.exports=function(e,r){if(r.styleSheet)r.styleSheet.cssText=e;else{for(;r.firstChild;)r.removeChild(r.firstChild);r.appendChild(document.createTextNode(e))}}}}]);