# Evaluates the module as NixOS would, as far as the module needs it: options have types and defaults, and what the module itself sets
# counts as what the user sets. Packages and files of the store are marks in strings.
{ module, user, name ? "portmon" }:
let
  inherit (builtins) all attrNames elem filter hasAttr head isAttrs isBool isInt isList isPath isString mapAttrs stringLength substring toJSON;

  lib = rec {
    mkOption = option: option // { _type = "option"; };
    mkEnableOption = name: mkOption { type = types.bool; default = false; description = "Whether to enable ${name}."; };
    mkIf = condition: content: { _type = "if"; inherit condition content; };
    literalExpression = text: text;
    hasPrefix = prefix: s: substring 0 (stringLength prefix) s == prefix;
    optionalAttrs = condition: set: if condition then set else { };
    getExe = package: "${package}/bin/portmon";
    types = rec {
      type = name: check: { inherit name check; };
      bool = type "bool" isBool;
      str = type "str" isString;
      strMatching = pattern: type "str matching ${pattern}" (v: isString v && builtins.match pattern v != null);
      package = type "package" isAttrs;
      path = type "path" (v: isPath v || isString v && hasPrefix "/" v);
      port = ints.between 0 65535;
      ints.positive = type "positive" (v: isInt v && v > 0);
      ints.between = from: to: type "from ${toString from} to ${toString to}" (v: isInt v && v >= from && v <= to);
      enum = values: type "one of ${toJSON values}" (v: elem v values);
      listOf = t: type "list of ${t.name}" (v: isList v && all t.check v);
      either = a: b: type "${a.name} or ${b.name}" (v: a.check v || b.check v);
      nullOr = t: type "null or ${t.name}" (v: v == null || t.check v);
      submodule = m: type "submodule" isAttrs // { inherit (m) options freeformType; };
    };
  };

  pkgs = {
    coreutils = "";
    runtimeShell = "/bin/sh";
    callPackage = file: args: { outPath = "/usr"; };
    formats.toml = args: {
      type = lib.types.type "toml" (v: true);
      generate = name: value: "<<${name}|${toJSON value}>>";
    };
    runCommand = name: env: script: "<<run ${name}>>${script}<<end>>";
  };

  # Definitions of the module are added to those of the user. A mkIf is looked into only when its value is asked for.
  isIf = v: isAttrs v && v._type or "" == "if";
  resolve = v: if isIf v then (if v.condition then v.content else { }) else v;
  merge = a: b: a // mapAttrs (name: v: let r = resolve v; in if isAttrs r then merge (a.${name} or { }) r else r) b;

  isOption = v: isAttrs v && v._type or "" == "option";
  values = where: options: freeform: defined:
    let unknown = filter (name: !hasAttr name options) (attrNames defined); in
    if unknown != [ ] && freeform == null then throw "${where}${head unknown}: there is no such option"
    else defined // mapAttrs (name: option: value "${where}${name}" option (defined.${name} or null) (hasAttr name defined)) options;
  value = where: option: defined: given:
    if !isOption option then values "${where}." option null (if given then defined else { })
    else if option.type ? options then nested "${where}." option.type.options (if given then defined else option.default)
    else
      let v = if given then defined else option.default; in
      if !option.type.check v then throw "${where}: want ${option.type.name}, not ${toJSON v}"
      else (option.apply or (x: x)) v;
  # In a freeform type, unknown names are allowed at any depth.
  nested = where: options: defined:
    defined // mapAttrs
      (name: option:
        if isOption option then value "${where}${name}" option (defined.${name} or null) (hasAttr name defined)
        else nested "${where}${name}." option (defined.${name} or { }))
      options;

  m = import module { inherit lib pkgs config; };
  config.services.${name} = values "services.${name}." m.options.services.${name} null (merge user (m.config.content.services.${name} or { }));

  describe = option:
    if isOption option && option.type ? options then mapAttrs (name: describe) option.type.options
    else if isOption option then { inherit (option) description; default = if option.type.name == "package" then null else option.default or null; }
    else mapAttrs (name: describe) option;
  service = s: if s == { } then s else removeAttrs s [ "reloadTriggers" ] // { triggers = s.reloadTriggers or [ ]; };
in
{
  enabled = m.config.condition;
  options = describe m.options.services.${name};
  settings = config.services.${name}.settings or { };
  failed = map (a: a.message) (filter (a: !a.assertion) m.config.content.assertions);
  file = m.config.content.environment.etc."portmon/portmon.toml".source or "";
  ports = resolve (m.config.content.networking.firewall.allowedTCPPorts or [ ]);
  programs = map toString m.config.content.environment.systemPackages;
  services = mapAttrs (name: s: service (resolve s)) m.config.content.systemd.services;
}
