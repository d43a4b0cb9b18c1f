// The server: models, and the paths by which both protocols reach them. Called by `vertebra serve`.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/http.h"
#include "server/model_service.h"

namespace vertebra::server {

class Server {
 public:
  // Serves the models under their ids. Listens at once; throws what HttpServer throws, and unimplemented for
  // an address that other machines reach, since there are no keys yet.
  Server(std::vector<std::unique_ptr<ModelService>> models, HttpOptions options);
  ~Server();
  uint16_t port() const { return http_->port(); }
  void run() { http_->run(); }  // until stop
  void stop(std::chrono::milliseconds patience) { http_->stop(patience); }

 private:
  class Router;
  std::unique_ptr<Router> router_;
  std::unique_ptr<HttpServer> http_;
};

}  // namespace vertebra::server
