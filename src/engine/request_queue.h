// Requests that wait for a slot: clients take turns, each client's requests in their order. Called by the
// engine.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <list>
#include <string>
#include <utility>

namespace vertebra {

template <class T>
class RequestQueue {
 public:
  void push(const std::string& client, T request) {
    const auto it = std::find_if(clients_.begin(), clients_.end(),
                                 [&](const Client& each) { return each.name == client; });
    // A client that comes (again) waits its turn behind those that are there.
    Client& mine = it != clients_.end() ? *it : clients_.emplace_back(Client{client, {}});
    mine.requests.push_back(std::move(request));
    ++size_;
  }
  bool empty() const { return size_ == 0; }
  int64_t size() const { return size_; }
  T& front() { return clients_.front().requests.front(); }
  // Takes the front out; it is another client's turn.
  T pop() {
    T out = std::move(front());
    clients_.front().requests.pop_front();
    --size_;
    if (clients_.front().requests.empty()) {
      clients_.pop_front();
    } else {
      clients_.splice(clients_.end(), clients_, clients_.begin());
    }
    return out;
  }
  template <class Visit>
  void for_each(const Visit& visit) {
    for (Client& client : clients_)
      for (T& request : client.requests) visit(request);
  }
  // Takes out what the predicate says yes to and hands it to `taken`.
  template <class Predicate, class Taken>
  void remove_if(const Predicate& predicate, const Taken& taken) {
    for (auto client = clients_.begin(); client != clients_.end();) {
      auto& requests = client->requests;
      for (auto it = requests.begin(); it != requests.end();) {
        if (!predicate(*it)) {
          ++it;
          continue;
        }
        taken(std::move(*it));
        it = requests.erase(it);
        --size_;
      }
      client = requests.empty() ? clients_.erase(client) : std::next(client);
    }
  }

 private:
  struct Client {
    std::string name;
    std::deque<T> requests;
  };
  std::list<Client> clients_;  // those with requests, in the order of their turns
  int64_t size_ = 0;
};

}  // namespace vertebra
